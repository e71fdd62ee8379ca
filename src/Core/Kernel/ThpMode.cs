namespace FramePin.Core.Kernel;

/// <summary>When anonymous memory gets transparent huge pages (/sys/kernel/mm/transparent_hugepage/enabled).</summary>
public enum ThpMode
{
    Never,
    MAdvise,
    Always,
}
