"""How tensors lie in files: .npz, safetensors, HDF5; which of them a file is."""
