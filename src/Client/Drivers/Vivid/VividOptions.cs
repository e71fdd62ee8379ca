namespace FramePin.Drivers.Vivid;

/// <summary>The module parameter "allocators" of vivid.</summary>
public enum VividAllocator
{
    /// <summary>videobuf2-vmalloc (allocators=0).</summary>
    Vmalloc,
    /// <summary>videobuf2-dma-contig (allocators=1), which offers no USERPTR.</summary>
    DmaContig,
}

/// <summary>The set-up of a vivid node. Immutable.</summary>
public sealed record VividOptions
{
    /// <summary>The node takes pictures from applications. Otherwise it makes pictures for them.</summary>
    public bool IsOutput { get; init; }

    /// <summary>The allocator of its queue.</summary>
    public VividAllocator Allocator { get; init; }

    /// <summary>The multi-planar API (multiplanar=2).</summary>
    public bool IsMultiplanar { get; init; }

    /// <summary>Frames a second; 0: as fast as buffers come.</summary>
    public double FramesPerSecond { get; init; } = 30;

    /// <summary>The clock of frames and timestamps.</summary>
    public TimeProvider Time { get; init; } = TimeProvider.System;
}
