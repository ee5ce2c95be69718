"""How lesions are run: the interface, the editing of one vector, and the engines."""
