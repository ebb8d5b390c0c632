"""What people see: the only room that knows napari, Qt, vispy and magicgui."""
