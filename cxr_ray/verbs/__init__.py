"""One file a verb of the command line. Verbs say and show; what they run lives below them."""
