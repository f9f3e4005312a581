[Context]
shared=network;
[Sandbox]
bus=unfiltered
user=avahi
state=/run/avahi-daemon;
arguments=--no-drop-root;--no-chroot;--no-proc-title;
