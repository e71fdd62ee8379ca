namespace FramePin.Drivers;

/// <summary>
/// What a driver's file operations answer: Linux error numbers (asm-generic), positive. <see cref="None"/> is success.
/// </summary>
public enum Errno
{
    None = 0,
    EPERM = 1,
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    EAGAIN = 11,
    ENOMEM = 12,
    EFAULT = 14,
    EBUSY = 16,
    ENODEV = 19,
    EINVAL = 22,
    ENOTTY = 25,
    EPIPE = 32,
    EBADR = 53,
    ENOBUFS = 105,
    /// <summary>A signal came; the caller's library restarts the call or shows EINTR.</summary>
    ERESTARTSYS = 512,
}
