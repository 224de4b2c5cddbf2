from hypothesis import settings

settings.register_profile("ulzoo", deadline=None)  # a first call may import, and a machine may be busy
settings.load_profile("ulzoo")
