namespace FramePin.Client;

/// <summary>The changes of a watched range, as mmu_interval_read_begin and _retry count them.</summary>
internal sealed class MirrorChanges
{
    /// <summary>Events so far.</summary>
    public int Count { get; set; }

    /// <summary>Changes that have begun and are not over.</summary>
    public int UnderWay { get; set; }

    /// <summary>The count at which the latest remap began.</summary>
    public int Remapped { get; set; }

    /// <summary>Others have changed the range since the latest remap began.</summary>
    public bool Forgets { get; set; }

    /// <summary>The remap that runs; null for none.</summary>
    public Task? Remap { get; set; }

    /// <summary>The pages are mapped as they are, and stand still.</summary>
    public bool IsSettled => UnderWay == 0 && Remapped == Count;

    /// <summary>The pages stand still, and are not mapped as they are.</summary>
    public bool NeedsRemap => Remap is null && UnderWay == 0 && Remapped != Count;
}
