"""Code that both sides must run identically, because they would be wrong if they differed."""
