"""What the labels say of the labeling: how fast, how well and how evenly it goes. Needs only labels."""
