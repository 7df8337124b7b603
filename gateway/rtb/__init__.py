"""Auctions as questions to specialists: OpenRTB in, mutations out, what became of them back as outcomes."""
