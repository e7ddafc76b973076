"""Neural networks: plain `nn.Module`s, tensors in and tensors out."""
