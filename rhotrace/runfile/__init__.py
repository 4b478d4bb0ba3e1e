"""The HDF5 file of a run: its layout, how it is written safely, read with suspicion, verified and repaired."""
