"""Acting: the state of the environments, and the unrolling of a policy on device and host."""
