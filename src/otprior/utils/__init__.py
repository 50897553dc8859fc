"""What every room uses: checks of arguments, files, numbered random draws, the Hub."""

from otprior.utils.validation import check_choice, check_integer, invalid, require

__all__ = ["check_choice", "check_integer", "invalid", "require"]
