"""Where events come from: client, replay, simulator, data sets."""
