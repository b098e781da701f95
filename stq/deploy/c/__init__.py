"""C99: a header with the network, and a program beside it that reads samples."""
