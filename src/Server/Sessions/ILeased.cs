namespace FramePin.Server.Sessions;

/// <summary>Something that a client acquired in a lease's name, and that the lease gives back at its end.</summary>
internal interface ILeased
{
    /// <summary>A frame vector. Vectors are given back last, and are counted.</summary>
    bool IsVector { get; }

    /// <summary>Pages that it holds now; 0 for everything but a vector.</summary>
    long Pages { get; }

    /// <summary>
    /// Gives it back. The lease calls this without its lock. False: another thread has given it back, or will.
    /// </summary>
    /// <param name="pages">Pages that were given back.</param>
    bool Release(out long pages);
}

/// <summary>A thing without pages that hangs on a lease: an address space, a device, an open file.</summary>
/// <param name="release">Gives the thing back; does nothing when it is gone.</param>
internal sealed class LeasedThing(Action release) : ILeased
{
    public bool IsVector => false;

    public long Pages => 0;

    public bool Release(out long pages)
    {
        pages = 0;
        release();
        return true;
    }
}
