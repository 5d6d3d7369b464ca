"""Published networks that are explained or that judge, built on torchvision's."""
