[Application]
command=/usr/libexec/geoclue;
[Context]
shared=network;
[Sandbox]
bus=unfiltered
user=geoclue
