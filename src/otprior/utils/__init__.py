"""What every room uses: checks of arguments, files, numbered random draws, the Hub."""
