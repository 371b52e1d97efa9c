"""Tasks and studies: they use the library as an outside user would."""
