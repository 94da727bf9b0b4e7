"""What strangers may hand to `dora`: damaged or malicious files, made from sound ones by seeded draws, and a process
that tries them.
"""
