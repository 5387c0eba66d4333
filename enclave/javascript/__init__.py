"""Applications in JavaScript: what governance has installed, as endpoints beside those of the application in the image.

The scripts run in workers (`enclave.scripts`); here stands what they are run for: which endpoint runs which function, what it is told of
the request, what becomes of what it returns.
"""
