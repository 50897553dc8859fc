"""The commands of the studies; the entry-point group `otprior.commands` names them."""
