-- What differs in production: nothing, the defaults are made for it.
return {}
