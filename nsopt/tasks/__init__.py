"""What a network is for: its batches, its loss, its score; images with labels are one task."""
