"""Segmentation of VS and cochlea: networks, loss, augmentation, averaged inference, uncertainty."""
