# Its own file dialog shows an empty home: what is attached has to be the app's.
[Application]
name=sm.puri.Chatty
command=chatty;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
persistent=.purple;
[Session Bus Policy]
org.gnome.evolution.dataserver.*=talk
[System Bus Policy]
org.freedesktop.ModemManager1=talk
