"""Finding the Laguerre cell of many draws."""
