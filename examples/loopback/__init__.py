"""A whole deployment on one machine, for the demo and the tests; not part of the package."""
