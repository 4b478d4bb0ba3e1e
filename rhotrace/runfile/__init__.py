"""The HDF5 file of a run: its layout, safe writing, reading without trust, verification and repair."""
