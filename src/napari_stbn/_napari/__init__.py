"""The only place that knows napari, Qt and magicgui."""
