"""A small app on the library, as a project has it, for the tests of configuration and command."""
