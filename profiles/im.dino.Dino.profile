[Application]
name=im.dino.Dino
command=dino-im;dino;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
[Session Bus Policy]
org.freedesktop.Notifications=talk
