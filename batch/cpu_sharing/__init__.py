"""How the workers share the machine's cores, among themselves and with other programs."""
