"""The whole, from outside: a real broker, a real store, a real worker process."""
