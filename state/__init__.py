"""What Tidewise knows: keys, packed formats, stores and the lookup client."""
