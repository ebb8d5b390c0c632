"""Views of the cells: each reads the session and writes its wishes to it."""
