"""A few lines each for libraries that cannot load an exported folder themselves."""
