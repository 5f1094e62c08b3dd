"""Tasks: what is learnt from which data, with which loss and measure."""
