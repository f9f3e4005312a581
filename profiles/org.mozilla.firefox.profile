# What Firefox saves without asking goes to ~/.var/app/org.mozilla.firefox/Downloads;
# "Web Page, complete" cannot save a page's pictures: the portal gives one file.
[Application]
name=org.mozilla.firefox
command=firefox;firefox-esr
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
filesystems=~/.mozilla:create;
persistent=Downloads;
features=userns;
[Session Bus Policy]
org.mpris.MediaPlayer2.firefox.*=own
