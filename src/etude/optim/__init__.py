"""What an update is made of besides the optimizer: the learning rate's course, and which parameters decay."""
