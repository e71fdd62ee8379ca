namespace FramePin.Drivers;

/// <summary>
/// Answers of a driver's file operations: Linux error numbers (asm-generic/errno.h), positive.
/// </summary>
public enum Errno
{
    /// <summary>Success.</summary>
    None = 0,
    /// <summary>Operation not permitted.</summary>
    EPERM = 1,
    /// <summary>No such entry.</summary>
    ENOENT = 2,
    /// <summary>A signal came before anything was done.</summary>
    EINTR = 4,
    /// <summary>Input or output failed.</summary>
    EIO = 5,
    /// <summary>Nothing is ready, and the call does not wait.</summary>
    EAGAIN = 11,
    /// <summary>Memory is out.</summary>
    ENOMEM = 12,
    /// <summary>An address cannot be accessed.</summary>
    EFAULT = 14,
    /// <summary>The resource is in use.</summary>
    EBUSY = 16,
    /// <summary>No such device, or the call is not there for it.</summary>
    ENODEV = 19,
    /// <summary>An argument is wrong.</summary>
    EINVAL = 22,
    /// <summary>No such ioctl.</summary>
    ENOTTY = 25,
    /// <summary>The last buffer was dequeued.</summary>
    EPIPE = 32,
    /// <summary>The request is wrong.</summary>
    EBADR = 53,
    /// <summary>No buffer is left.</summary>
    ENOBUFS = 105,
    /// <summary>A signal came. The caller's library restarts the call or shows EINTR.</summary>
    ERESTARTSYS = 512,
}
