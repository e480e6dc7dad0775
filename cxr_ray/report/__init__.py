"""Tables, figures and the one-file page of a judged run. Nothing is fitted or predicted here."""
