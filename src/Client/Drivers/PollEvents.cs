namespace FramePin.Drivers;

/// <summary>What a file is ready for (include/uapi/linux/eventpoll.h: EPOLLIN and its like).</summary>
[Flags]
public enum PollEvents
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>EPOLLIN: reading does not wait.</summary>
    In = 1,
    /// <summary>EPOLLPRI: an event is pending.</summary>
    Priority = 2,
    /// <summary>EPOLLOUT: writing does not wait.</summary>
    Out = 4,
    /// <summary>EPOLLERR: an error. Always asked for.</summary>
    Error = 8,
    /// <summary>EPOLLHUP: the other end is gone. Always asked for.</summary>
    HangUp = 0x10,
    /// <summary>EPOLLNVAL: the file is closed.</summary>
    Invalid = 0x20,
    /// <summary>EPOLLRDNORM, which V4L2 sets beside <see cref="In"/>.</summary>
    ReadNormal = 0x40,
    /// <summary>EPOLLWRNORM, which V4L2 sets beside <see cref="Out"/>.</summary>
    WriteNormal = 0x100,
    /// <summary>DEFAULT_POLLMASK: a file without a poll method.</summary>
    AlwaysReady = In | Out | ReadNormal | WriteNormal,
}
