"""Looking at a data set: what is in it, how it looks, and whether it is whole."""
