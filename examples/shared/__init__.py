"""What the examples share: the pages, the options of their commands, and socket.io-client."""
