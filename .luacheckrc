std = "luajit"
max_line_length = 100
unused_secondaries = false

-- The specs' framework brings its words as globals.
files["**/*_spec.lua"].std = "+busted"
