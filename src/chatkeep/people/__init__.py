"""Users: whose conversations are whose, what each user sees of their own, and what becomes of a guest's when the guest signs in."""
