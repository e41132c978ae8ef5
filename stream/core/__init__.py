"""The pure functional core: no clock, no I/O, no Faust, Kafka or Redis."""
