"""MultiMNIST and Multi-Fashion: one image, two labels."""
