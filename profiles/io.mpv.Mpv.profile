[Application]
name=io.mpv.Mpv
command=mpv;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
[Session Bus Policy]
org.mpris.MediaPlayer2.mpv.*=own
