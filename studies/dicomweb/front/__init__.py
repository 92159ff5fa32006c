"""Hot reads of DICOMweb before Django's middleware; whatever it does not answer goes on to Django.

`Front` is a WSGI application around another one. It answers GET below the general and the project roots for users whom
it knows, with the same views and so the same bytes as Django (the tests compare them). Two things are remembered for
two seconds at most: who a session or token is, and which series a user may see. Both are forgotten as soon as the
database tells of a change (`Notices`), in every process.
"""

from studies.dicomweb.front.application import Front

__all__ = ["Front"]
